"""DeepSpeed's checkpoints: ZeRO's partitions of weights and moments, and universal ones, as one state by name."""
