"""How long a study may take, worked out from operations, bytes and the memory plan."""
