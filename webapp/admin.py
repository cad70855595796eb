"""What Django's admin calls itself here."""

from django.contrib import admin

admin.site.site_header = admin.site.site_title = "Workload Runner"
admin.site.index_title = "Administration"
admin.site.enable_nav_sidebar = False  # four kinds of things need no list of their own beside every table
