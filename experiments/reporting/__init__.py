"""What a search leaves for people: reading and picking from a front, tables, plots, pages."""
