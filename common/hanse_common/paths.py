"""The map of files: every name in a store's folder, a federation's folder and a run's folder.

Each name stands here once, with what the file holds and who writes it. Where a name lies in
folders of more than one kind, it holds the same kind of thing in each of them.
"""

from __future__ import annotations

# A store's folder. `hanse store init` lays it out, the node writes what it needs to take part.

NODE_FILE = "node.json"
"""The node's name and where its parts lie; written by `hanse store init`, and by a simulation."""
STORE_FILE = "store.toml"
"""Where the store's data are and how to read them; a template of `hanse store init` that its
operator fills in. A folder of a public data set has one for each store."""
CUSTOMER_KEY_FILE = "customer.key"
"""The secret behind the customers' pseudonyms, 0600; made by whatever reads the data first."""
HOME_KEY_FILE = "home.key"
"""The secret that all stores share to agree on each person's home, 0600; operators hand it
on, and a public data set's folder has one."""
EVENTS_FILE = "events.parquet"
"""What customers did; the operator's, or written with a public data set."""
CATALOGUE_FILE = "catalogue.parquet"
"""What can be bought; the operator's, or written with a public data set."""
NODE_KEY_FILE = "node.key"
"""The EC key that Flower authenticates the node by, 0600; made by `hanse store init`."""
NODE_PUBLIC_FILE = "node.pub"
"""The public half of the node's key; made with it."""
NEXT_SUFFIX = ".next"
"""Ends the name of a key that waits for its certificate; `hanse store keys rotate` makes it,
and the certificate's import renames it."""
INVITATION_FILE = "invitation.json"
"""Where the federation is and whom it trusts; written by `hanse server init` in the
federation's folder, and kept by `hanse store enrol` in the store's."""
REQUEST_SUFFIX = ".request"
"""Ends the name of a store's request to be admitted; `hanse store enrol` writes it, and
`hanse server admit` keeps it."""
SETTINGS_FILE = "settings.json"
"""The run's settings. A store keeps what it was given; a federation's folder has those that the
manifest was signed for, and a run's folder those that it runs under."""
MODEL_FOLDER = "model"
"""The frozen start of the model at a store, or the trained model of a run; see below."""
HISTORIES_FILE = "histories.npz"
"""The store's prepared histories, 0600; written by `hanse store prepare` and `join`."""
PREPARED_FILE = "prepared.json"
"""What the histories were prepared from; written after them."""
TEXTS_FOLDER = "texts"
"""Vectors of the catalogue's texts, so that they are computed once; a cache."""
JOIN_LOCK_FILE = "join.lock"
"""Held by `hanse store join` while it runs; two nodes would refuse each other's attempts."""
LEAVING_FILE = "leaving.json"
"""The operator's decision to take part no longer; written by `hanse store leave`."""

LEDGER_FILE = "ledger.sqlite"
"""Every charge and refusal; the node writes it before what it costs leaves."""
LEDGER_HEAD_FILE = "ledger.head"
"""How far the ledger goes, so that an older one is noticed; written after each entry."""
LEDGER_SALT_FILE = "ledger.salt"
"""The secret behind the ledger's commitments to vectors, 0600; made by the first of them."""
STORE_LOG_FILE = "log.jsonl"
"""Losses, epsilon and errors by step, for the store's own eyes; the node appends to it."""
EVALUATIONS_FOLDER = "evaluations"
"""Figures of each evaluation, for the store's own eyes; written by the node."""
CLIPPING_CHECK_FILE = "clipping-check.json"
"""For which model, settings and libraries clipping was found exact; written by the node."""
LOG_CHECKPOINTS_FOLDER = "checkpoints"
"""The last checkpoint that the store accepted of each round log, one file a log key."""
ATTEMPT_FILE = "attempt"
"""How far the newest attempt came, outside `secagg/`: a backup of that folder which is brought
back does not bring this back with it."""
SECAGG_FOLDER = "secagg"
"""What waits between two messages of one exchange; the node writes all of it."""
JOURNAL_FILE = "journal"
"""In `secagg/`: every attempt made, so that none is made twice."""
WAITING_FILE = "waiting"
"""In `secagg/`: the quantised vector, and what it will be charged, 0600."""
STATE_FILE = "state"
"""In `secagg/`: the protocol's secrets between two messages, 0600."""

# What makes a store a member: the folder `enrolment/` of a store, or beside the ledger.

ENROLMENT_FOLDER = "enrolment"
"""Key, certificate, policy and terms of one store."""
STORE_KEY_FILE = "store.key"
"""The store's Ed25519 identity, 0600; made by `hanse store init`."""
CERTIFICATE_FILE = "certificate"
"""The authority's word for that key; `hanse store enrol` keeps it, and earlier ones beside it
under this name and a time."""
POLICY_FILE = "policy.toml"
"""The store's own limits, and the authority it trusts; its operator fills in a template."""
MANIFEST_FILE = "manifest.json"
"""The federation's terms, signed by the authority. `hanse server sign` writes them in the
federation's folder; stores keep them under `enrolment/`, earlier ones beside them, and a run's
folder has those it runs under."""
MANIFEST_STEM = "manifest"
"""Begins the names of the manifest and of the earlier ones beside it."""

# A model's folder, as `save_pretrained` writes it.

CONFIG_FILE = "config.json"
"""The model's configuration, with the vocabulary."""
WEIGHTS_FILE = "model.safetensors"
"""All parameters of the model."""
INITIAL_FILE = "initial.safetensors"
"""The trained parameters that a run starts from, beside the model or in the run's folder; what
writes the model writes them last."""
PRETRAINING_FILE = "pretraining.json"
"""What a base was pre-trained on; written by `hanse model pretrain`."""
PROJECTIONS_FILE = "projections.safetensors"
"""How another library's model is read; written when it is adapted."""
CARD_FILE = "README.md"
"""The model's card, for people."""

# A federation's folder at its coordinator, laid out by `hanse server init`.

FEDERATION_FILE = "federation.toml"
"""Name, addresses, TLS files and what else the coordinator is told."""
SETTINGS_TEMPLATE_FILE = "settings.toml"
"""What is learnt and promised; `hanse server init` leaves a template to change."""
AUTHORITY_FILE = "authority"
"""The enrolment authority's public key in hexadecimal; a run's folder has a copy."""
AUTHORITY_KEY_FILE = "authority.key"
"""The authority's private key, 0600; it may be kept elsewhere, offline."""
COORDINATOR_KEY_FILE = "coordinator.key"
"""Signs the round log's checkpoints, 0600; a simulated run's folder has its own."""
TLS_FOLDER = "tls"
"""Certificates and keys that `hanse server init` made."""
TLS_ROOT_FILE, TLS_ROOT_KEY_FILE = "ca.crt", "ca.key"
"""In `tls/`: the root that stores check the coordinator by, if it was made here."""
TLS_CERTIFICATE_FILE, TLS_KEY_FILE = "server.crt", "server.key"
"""In `tls/`: what stores see."""
LOOPBACK_ROOT_FILE = "loopback-ca.crt"
"""In `tls/`: the root of what only this machine sees."""
LOOPBACK_CERTIFICATE_FILE, LOOPBACK_KEY_FILE = "loopback.crt", "loopback.key"
"""In `tls/`: what the SuperLink shows on this machine."""
REQUESTS_FOLDER = "requests"
"""Requests that were admitted, one file a store; written by `hanse server admit`."""
CERTIFICATES_FOLDER = "certificates"
"""One certificate for each admitted store; written by `hanse server admit`."""
EARLIER_FOLDER = "earlier"
"""In `certificates/`: those that were replaced."""
REVOKED_FOLDER = "revoked"
"""Certificates that are refused whatever their date; `hanse server revoke` moves them here."""
MANIFESTS_FOLDER = "manifests"
"""Terms that were replaced: a run that began under them may be looked at later."""
ROUND_LOG_FILE = "roundlog.sqlite"
"""What every round asked and what came of it; the coordinator appends to it, in the
federation's folder or, simulated, in the run's."""
ROUND_LOG_CHECKPOINT_FILE = "roundlog.checkpoint"
"""How far the round log goes, signed; written after each record."""
BLAME_FILE = "blame.json"
"""Whom rounds go on without, and why; the coordinator writes it, `hanse server blame` changes
it."""
RUNTIME_FOLDER = "state"
"""What belongs to the processes of `hanse server up`, not to the federation."""
UP_PID_FILE, UP_LOG_FILE = "up.pid", "up.log"
"""In `state/`: the process that is up, locked while it is, and what it says."""
SUPERLINK_DATABASE_FILE, SUPERLINK_LOG_FILE = "superlink.db", "superlink.log"
"""In `state/`: Flower's SuperLink writes both."""
FLOWER_FOLDER = "flower"
"""In `state/`, or at a store: Flower's own home."""
RUNS_FOLDER = "runs"
"""One folder for each run."""

# A run's folder, or an arm's: what the coordinator writes while it runs.

ROUNDS_FILE = "rounds.jsonl"
"""One line for each stage of a round; the server app appends to it."""
PROGRESS_FILE = "progress.json"
"""Where the run is at this moment; the server app replaces it all the time."""
FAILURE_FILE = "failure.json"
"""What ended the run, if an error did; written by the server app."""
GLOBAL_FILE = "global.safetensors"
"""The trained parameters of the newest global model; the server app replaces it."""
OWN_MODEL_FILE = "own.safetensors"
"""In a simulated store's folder: the parameters that the store trained alone, written by it."""
RUN_CHECKPOINTS_FOLDER = "checkpoints"
"""One folder for each of the last rounds, from which a run goes on; written by the server app."""
ARRAYS_FILE, STRATEGY_FILE, ROUND_STATE_FILE = (
    "arrays.safetensors",
    "strategy.safetensors",
    "state.json",
)
"""In a checkpoint: the global model, what the strategy remembers, and round and settings."""
FLOWER_RUNS_FILE = "flower.json"
"""Flower's numbers of the run, one for each time it was started; `hanse server run` writes it."""
STORES_FOLDER = "stores"
"""In a simulated run: one store's folder for each store."""
ARMS_FOLDER = "arms"
"""In a simulated run: one run's folder for each arm that the main one is compared with."""
RESULT_FILE = "result.json"
"""What a simulated run found; written at its end."""
DRAWINGS_FILE = "drawings.json"
"""What the report draws beside figures; written at its end."""
METRICS_CSV_FILE, METRICS_JSON_FILE = "metrics.csv", "metrics.json"
"""All figures as a long table, and as a list of objects; written at its end."""
REPORT_FILE = "report.html"
"""The report, one page; written by `hanse runs report` and at a run's end."""
TENSORBOARD_FOLDER = "tensorboard"
"""Events for TensorBoard, where it was asked for."""
