"""Pictures and the page that show an explanation."""
