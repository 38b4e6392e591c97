"""Networks: the ECAPA-TDNN encoder, the projection MLP and the prototypes."""
