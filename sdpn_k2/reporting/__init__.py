"""Results of an experiment for people to read: tables, pictures and HTML pages."""
