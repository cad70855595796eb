"""What Django's admin calls itself here."""

from django.contrib import admin

admin.site.site_header = admin.site.site_title = "Workload Runner"
admin.site.index_title = "Administration"
