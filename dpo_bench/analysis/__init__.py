"""The statistics of a comparison, on tables: knows neither torch nor the program."""
