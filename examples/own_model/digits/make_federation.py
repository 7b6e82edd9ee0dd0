"""Make the stores' folders and the signed terms: `python make_federation.py FOLDER`."""

import sys

from digits_app.task import STORES, Net

from hanse_common import PrivacyPlan  # hanse
from hanse_simulations import make_federation  # hanse

plan = PrivacyPlan.solve(target_epsilon=8, target_delta=1e-4, rounds=20, sample_rate=0.5)  # hanse
terms = {"stores": STORES, "learning_rate": 4, "expected_batch_size": 128}  # hanse
make_federation(sys.argv[1], plan, Net(), **terms)  # hanse
