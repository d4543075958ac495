"""One file per kind of archive: where its records lie, whose they are, and which labels it carries."""
