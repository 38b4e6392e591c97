"""Self-supervised methods: student, teacher and objective as one module; views in, loss and statistics out."""

from typing import Dict, Type, Union

from sdpn_k2.methods.dino import DINO
from sdpn_k2.methods.sdpn import SDPN

Method = Union[SDPN, DINO]
METHODS: Dict[str, Union[Type[SDPN], Type[DINO]]] = {"sdpn": SDPN, "dino": DINO}
