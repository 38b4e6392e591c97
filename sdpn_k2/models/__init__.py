"""Networks: the ECAPA-TDNN encoder, the projection MLP, the prototypes, and their checkpoints."""
