"""The names of all files in a store's folder, a federation's folder and a run's folder.

Each name is defined here once, with what the file holds and who writes it. A name that occurs
in several kinds of folder means the same kind of file in each of them.
"""

from __future__ import annotations

# A store's folder: `hanse store init` creates it, and the node adds its own files.

NODE_FILE = "node.json"
"""The node's name and the paths of its files; written by `hanse store init`, or a simulation."""
STORE_FILE = "store.toml"
"""Where the store's data are and how to read them; a template of `hanse store init` that its
operator fills in. A folder of a public data set has one for each store."""
CUSTOMER_KEY_FILE = "customer.key"
"""The secret behind the customers' pseudonyms, 0600; created when the data are first read."""
HOME_KEY_FILE = "home.key"
"""The secret that all stores share to agree on each person's home store, 0600. Operators
pass it on; a public data set's folder has one too."""
EVENTS_FILE = "events.parquet"
"""The customers' events; the operator's own file, or written with a public data set."""
CATALOGUE_FILE = "catalogue.parquet"
"""The items that can be bought; the operator's own file, or written with a public data set."""
NODE_KEY_FILE = "node.key"
"""The EC key that Flower authenticates the node by, 0600; made by `hanse store init`."""
NODE_PUBLIC_FILE = "node.pub"
"""The public half of the node's key; made with it."""
NEXT_SUFFIX = ".next"
"""Suffix of a new key that has no certificate yet; `hanse store keys rotate` writes the file,
and importing the certificate renames it."""
INVITATION_FILE = "invitation.json"
"""The federation's address and its authority; written by `hanse server init` in the
federation's folder, and copied to the store's by `hanse store enrol`."""
REQUEST_SUFFIX = ".request"
"""Suffix of a store's request to be admitted; `hanse store enrol` writes the file, and
`hanse server admit` stores a copy."""
SETTINGS_FILE = "settings.json"
"""The run's settings: in a store's folder those it received, in a federation's folder those that
the manifest was signed for, in a run's folder those of the run."""
MODEL_FOLDER = "model"
"""The frozen base model at a store, or the trained model of a run; its files are below."""
HISTORIES_FILE = "histories.npz"
"""The store's prepared histories, 0600; written by `hanse store prepare` and `join`."""
PREPARED_FILE = "prepared.json"
"""Fingerprints of what the histories were prepared from; written after the histories."""
TEXTS_FOLDER = "texts"
"""A cache of the embeddings of the catalogue's texts."""
JOIN_LOCK_FILE = "join.lock"
"""Locked by `hanse store join` while it runs: two nodes of one store would refuse each other's
attempts."""
TOLD_FILE = "told.json"
"""The events that somebody was told of; `hanse store join` writes it, and in `state/` of a
federation's folder `hanse server up`."""
TLS_END_FILE = "tls-end.json"
"""When the coordinator's TLS certificate ends, as the node last saw it."""
LEAVING_FILE = "leaving.json"
"""The operator's decision to leave the federation; written by `hanse store leave`."""

LEDGER_FILE = "ledger.sqlite"
"""Every charge and refusal; the node writes a charge before the vector that it pays for is
sent."""
BUDGET_FILE = "budget.json"
"""Epsilon spent and left as last computed from ledger, policy and terms, 0600; for displays."""
LEDGER_HEAD_FILE = "ledger.head"
"""Number and hash of the ledger's last entry, so that a restored older copy is noticed;
written after each entry."""
LEDGER_SALT_FILE = "ledger.salt"
"""The secret behind the ledger's commitments to vectors, 0600; created for the first one."""
STORE_LOG_FILE = "log.jsonl"
"""Losses, epsilon and errors by step, for the store alone; the node appends to it."""
EVALUATIONS_FOLDER = "evaluations"
"""Metrics of each evaluation, for the store alone; written by the node."""
CLIPPING_CHECK_FILE = "clipping-check.json"
"""The models, settings and libraries for which clipping was measured to be exact; written by
the node."""
LOG_CHECKPOINTS_FOLDER = "checkpoints"
"""The last checkpoint that the store accepted of each round log, one file per log key."""
ATTEMPT_FILE = "attempt"
"""The state of the newest attempt. It lies outside `secagg/`, so that restoring a backup of
that folder does not restore this file with it."""
SECAGG_FOLDER = "secagg"
"""State between two messages of one exchange; the node writes all of it."""
JOURNAL_FILE = "journal"
"""In `secagg/`: every attempt so far, so that none is repeated."""
WAITING_FILE = "waiting"
"""In `secagg/`: the quantised vector and its charge, 0600."""
STATE_FILE = "state"
"""In `secagg/`: the protocol's secrets between two messages, 0600."""

# A store's membership: the folder `enrolment/` of a store, or the folder of its ledger.

ENROLMENT_FOLDER = "enrolment"
"""Key, certificate, policy and terms of one store."""
STORE_KEY_FILE = "store.key"
"""The store's Ed25519 identity, 0600; made by `hanse store init`."""
CERTIFICATE_FILE = "certificate"
"""The authority's certificate for that key. `hanse store enrol` stores it, and renames earlier
ones to this name and a time."""
POLICY_FILE = "policy.toml"
"""The store's own limits, and the authority it trusts; its operator fills in a template."""
MANIFEST_FILE = "manifest.json"
"""The federation's terms, signed by the authority. `hanse server sign` writes them in the
federation's folder. Stores have them and earlier ones under `enrolment/`, and a run's folder
has those of the run."""
MANIFEST_STEM = "manifest"
"""Prefix of the file names of the manifest and of earlier ones."""

# A model's folder, as `save_pretrained` writes it.

CONFIG_FILE = "config.json"
"""The model's configuration, with the vocabulary."""
WEIGHTS_FILE = "model.safetensors"
"""All parameters of the model."""
INITIAL_FILE = "initial.safetensors"
"""The trainable parameters that a run starts from, in the model's or the run's folder; written
last, so that their presence says that the model is complete."""
PRETRAINING_FILE = "pretraining.json"
"""What a base model was pre-trained on; written by `hanse model pretrain`."""
BASES_FOLDER = "bases"
"""In the package, beside the code that makes them: the bases that ship with it, a folder each."""
PROJECTIONS_FILE = "projections.safetensors"
"""Projections of a pretrained model's states; written when a foreign checkpoint is adapted."""
CARD_FILE = "README.md"
"""The model card."""

# A federation's folder at its coordinator: `hanse server init` creates it.

FEDERATION_FILE = "federation.toml"
"""The coordinator's own configuration: name, addresses, TLS files and more."""
SETTINGS_TEMPLATE_FILE = "settings.toml"
"""The settings of training and privacy; `hanse server init` writes a template to change."""
AUTHORITY_FILE = "authority"
"""The enrolment authority's public key in hexadecimal; a run's folder has a copy."""
AUTHORITY_KEY_FILE = "authority.key"
"""The authority's private key, 0600; it may be stored elsewhere, offline."""
COORDINATOR_KEY_FILE = "coordinator.key"
"""Signs the round log's checkpoints, 0600; a simulated run's folder has its own."""
COORDINATOR_PUBLIC_FILE = "coordinator.pub"
"""The public half of that key in hexadecimal, in a copy of the folder for the authority;
written by `hanse server authority export`."""
COMPANY_ROOTS_FILE = "company-ca.pem"
"""In such a copy: the roots of the company's own authority."""
TLS_FOLDER = "tls"
"""Certificates and keys that `hanse server init` made."""
TLS_ROOT_FILE, TLS_ROOT_KEY_FILE = "ca.crt", "ca.key"
"""In `tls/`: the root certificate by which stores check the coordinator, if it was made here."""
TLS_CERTIFICATE_FILE, TLS_KEY_FILE = "server.crt", "server.key"
"""In `tls/`: the certificate that stores see."""
LOOPBACK_ROOT_FILE = "loopback-ca.crt"
"""In `tls/`: the root certificate of connections within this machine."""
LOOPBACK_CERTIFICATE_FILE, LOOPBACK_KEY_FILE = "loopback.crt", "loopback.key"
"""In `tls/`: the SuperLink's certificate for connections within this machine."""
REQUESTS_FOLDER = "requests"
"""Requests that were admitted, one file per store; written by `hanse server admit`."""
CERTIFICATES_FOLDER = "certificates"
"""One certificate for each admitted store; written by `hanse server admit`."""
EARLIER_FOLDER = "earlier"
"""In `certificates/`: certificates that were replaced; in `revoked/`: those of stores that were
revoked again later."""
REVOKED_FOLDER = "revoked"
"""Certificates that are refused whatever their date; `hanse server revoke` moves them here."""
MANIFESTS_FOLDER = "manifests"
"""Manifests that were replaced; audits of runs under them still need them."""
ROUND_LOG_FILE = "roundlog.sqlite"
"""The instructions and the outcome of every exchange; the coordinator appends to it, in the
federation's folder or, in a simulation, the run's."""
ROUND_LOG_CHECKPOINT_FILE = "roundlog.checkpoint"
"""Signed size and Merkle root of the round log; written after each record."""
BLAME_FILE = "blame.json"
"""Stores that are excluded from rounds, and why; the coordinator writes it, and `hanse server
blame` changes it."""
RUNTIME_FOLDER = "state"
"""Files of the processes of `hanse server up`, which are no part of the federation."""
UP_PID_FILE, UP_LOG_FILE = "up.pid", "up.log"
"""In `state/`: the id of the running process, locked while it runs, and its output."""
CRASHES_FILE = "crashes.json"
"""In `state/`: processes that ended by themselves lately; `hanse server up` writes it."""
NODE_VERSIONS_FILE = "versions.json"
"""In `state/`: the version that each node named last; the gateway writes it."""
SUPERLINK_DATABASE_FILE, SUPERLINK_LOG_FILE = "superlink.db", "superlink.log"
"""In `state/`: Flower's SuperLink writes both; the log has numbered files with earlier lines."""
FLOWER_FOLDER = "flower"
"""In `state/`, or at a store: Flower's home folder (`FLWR_HOME`)."""
RUNS_FOLDER = "runs"
"""One folder for each run."""

# The folder of a run or of one of its arms: files that the coordinator writes while it runs.

ROUNDS_FILE = "rounds.jsonl"
"""One line for each stage of a round; the server app appends to it."""
PROGRESS_FILE = "progress.json"
"""The run's current round and stage; the server app replaces it continually."""
FAILURE_FILE = "failure.json"
"""The error that ended the run, if one did; written by the server app."""
GLOBAL_FILE = "global.safetensors"
"""The trainable parameters of the newest global model; the server app replaces it."""
OWN_MODEL_FILE = "own.safetensors"
"""In a simulated store's folder: the parameters that the store trained on its own."""
RUN_CHECKPOINTS_FOLDER = "checkpoints"
"""One folder for each of the last rounds, from which a run can resume; written by the server
app."""
ARRAYS_FILE, STRATEGY_FILE, ROUND_STATE_FILE = (
    "arrays.safetensors",
    "strategy.safetensors",
    "state.json",
)
"""In a checkpoint: the global model, the strategy's own state, and round and settings."""
FLOWER_RUNS_FILE = "flower.json"
"""Flower's run ids, one for each start of the run; `hanse server run` writes it."""
STORES_FOLDER = "stores"
"""In a simulated run: one folder per store."""
ARMS_FOLDER = "arms"
"""In a simulated run: one run's folder for each arm that the main run is compared with."""
OWN_STORES_FOLDER = "shops"
"""In a simulated run: the stores that one own file was divided into."""
SMALL_FOLDER = "small"
"""In a simulated run: one folder for each small federation of its customers."""
SMALL_STUDY_FILE = "small_study.json"
"""In the package, beside the code of `hanse plan`: what small federations gained by joining."""
RESULT_FILE = "result.json"
"""The results of a simulated run; written at its end."""
DRAWINGS_FILE = "drawings.json"
"""Data of the report's charts; written at the run's end."""
METRICS_CSV_FILE, METRICS_JSON_FILE = "metrics.csv", "metrics.json"
"""All metrics as a long table, and as a list of objects; written at the run's end."""
REPORT_FILE = "report.html"
"""The report, one page; written by `hanse runs report` and at a run's end."""
TENSORBOARD_FOLDER = "tensorboard"
"""Events for TensorBoard, if it was switched on."""
