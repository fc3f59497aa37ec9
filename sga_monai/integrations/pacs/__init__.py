"""Studies are found in an archive over DICOMweb or DIMSE and pulled into a folder with their manifest."""
