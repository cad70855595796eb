// What Django's admin names with a picture alone, or not at all.
document.getElementById("searchbar")?.setAttribute("aria-label", "Search");
