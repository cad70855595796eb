"""What Django's admin calls itself here, and users and groups in forms that everybody can use."""

from django.contrib import admin
from django.contrib.auth import admin as auth_admin
from django.contrib.auth.models import Group, User

admin.site.site_header = admin.site.site_title = "Workload Runner"
admin.site.index_title = "Administration"
admin.site.enable_nav_sidebar = False  # four kinds of things need no list of their own beside every table

admin.site.unregister([User, Group])


@admin.register(User)
class UserAdmin(auth_admin.UserAdmin):
    """Plain lists of groups and permissions: Django's pair of boxes hides its words from screen readers."""

    filter_horizontal = ()
    readonly_fields = ("last_login", "date_joined")


@admin.register(Group)
class GroupAdmin(auth_admin.GroupAdmin):
    filter_horizontal = ()
