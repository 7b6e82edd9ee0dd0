"""Make the stores' folders and the signed terms: `python make_federation.py FOLDER`."""

import sys

from texts_app.task import STORES, Classifier

from hanse_common import PrivacyPlan  # hanse
from hanse_simulations import make_federation  # hanse

plan = PrivacyPlan.solve(target_epsilon=8, target_delta=1e-4, rounds=10, sample_rate=0.5)  # hanse
terms = {"stores": STORES, "learning_rate": 2, "expected_batch_size": 64}  # hanse
make_federation(sys.argv[1], plan, Classifier(), **terms)  # hanse
