"""How the documentation is made: what Sphinx is told, and the pages and pictures made from code."""
