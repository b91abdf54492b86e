"""Claims of papers, tried in a world where reward and KL are exact."""
