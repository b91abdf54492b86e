"""The memory plan beside an independent measurement, and what fits on which card."""
