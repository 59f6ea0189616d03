"""What developers run: the table of conformance, the generated parts of the documents, the locks."""
