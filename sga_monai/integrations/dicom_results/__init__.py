"""Results of an evaluation as DICOM objects: a picture that people see, and a structured report that programs read."""
