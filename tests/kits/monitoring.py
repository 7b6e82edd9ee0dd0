"""All figures that a coordinator and a store may show to their monitoring, with their labels."""

MAY_BE_SHOWN_BY_A_COORDINATOR = {
    "hanse_runs": (),
    "hanse_run_rounds": ("run",),
    "hanse_run_rounds_done": ("run",),
    "hanse_run_finished": ("run",),
    "hanse_run_failed": ("code", "run"),
    "hanse_run_last_stage_timestamp_seconds": ("run",),
    "hanse_noise_share": ("run",),
    "hanse_stage_seconds": ("run", "stage"),
    "hanse_attempts": ("run", "stage"),
    "hanse_stage_stores": ("run", "stage"),
    "hanse_stores_lost": ("at", "code", "run", "stage", "store"),
    "hanse_exchanges_lost": ("code", "run", "stage"),
    "hanse_certificate_end_timestamp_seconds": ("store",),
    "hanse_tls_certificate_end_timestamp_seconds": ("certificate",),
    "hanse_read_errors": ("code",),
}
MAY_BE_SHOWN_BY_A_STORE = {
    "hanse_store_joined": (),
    "hanse_store_refusals": ("code",),
    "hanse_store_last_exchange_timestamp_seconds": (),
    "hanse_store_certificate_end_timestamp_seconds": (),
    "hanse_store_tls_certificate_end_timestamp_seconds": (),
    "hanse_store_ledger_entries": ("kind",),
    "hanse_store_rounds": (),
    "hanse_store_epsilon_spent": (),
    "hanse_store_epsilon_spent_ever": (),
    "hanse_store_epsilon_limit": (),
    "hanse_store_epsilon_left": (),
    "hanse_store_rounds_left": (),
    "hanse_read_errors": ("code",),
}
