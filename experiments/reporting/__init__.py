"""What a search leaves for people: tables, plots, pages."""
