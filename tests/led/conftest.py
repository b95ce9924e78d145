"""One thread for every test: the models are tiny, and threads that wait for a busy core cost a hundred times
their work."""

import torch

torch.set_num_threads(1)
