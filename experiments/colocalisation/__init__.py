"""Co-localisation: a spatial transformer finds the digit that many images share."""
