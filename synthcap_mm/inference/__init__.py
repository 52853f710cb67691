"""A trained captioner in use: photos to captions, and a captioner as one folder."""
