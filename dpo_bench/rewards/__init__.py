"""What scores or judges responses."""
