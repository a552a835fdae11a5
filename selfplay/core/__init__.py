"""What every room may use: errors, records, protocols, text for terminals and Markdown. Imports no other room."""
