"""A checkpoint, understood: its architecture, and to which parameter every tensor and optimizer record belongs."""
