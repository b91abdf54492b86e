"""Sweeps' folders as a page, a Markdown file and figures; nothing is trained or sampled here."""
