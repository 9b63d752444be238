"""Files in and out: volumes, DICOM series, masks, meshes, tables."""
