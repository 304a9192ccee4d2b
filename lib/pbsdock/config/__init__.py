"""The site's configuration: its tables, how they are read, and whether the file can be believed."""
