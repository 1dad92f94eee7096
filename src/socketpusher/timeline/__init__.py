"""A recording as a timeline: what ran when and where, as Trace Event JSON or as a picture. Pure."""
