"""What people see: tables, figures, one self-contained page."""
