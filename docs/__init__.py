"""The build of the documentation: Sphinx's configuration, and pages and pictures made by code."""
