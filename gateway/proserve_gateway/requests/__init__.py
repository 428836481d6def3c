"""The life of an accepted request: read, admitted, placed, attempted, answered."""
