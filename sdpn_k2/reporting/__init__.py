"""What a person reads about an experiment: results, pictures and HTML pages."""
