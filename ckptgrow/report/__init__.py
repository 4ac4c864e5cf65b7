"""A run in pictures, tables and words: one page that needs nothing else, finished or not."""
