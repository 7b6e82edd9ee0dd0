"""Templates of `store.toml` and `policy.toml`, which `hanse store init` writes."""

from __future__ import annotations

AUTHORITY_LINE = 'authority = ""'
"""The line of a policy that pins no authority yet; `hanse store enrol` replaces it."""


def store_toml(name: str) -> str:
    """A `store.toml` to fill in; docs/data.md describes every key."""
    return f'''\
# Where this store's data are. `hanse data check store.toml` reads them as training would.
name = "{name}"

# First day of the store's records: a public fact, and not the day of the first event.
# observed_from = 2024-01-01

# Only where the federation trains on each person at one store: the stores' common key.
# home_key = "home.key"

[events]
# A Parquet, CSV or TSV file; `*` matches several files.
path = "events.parquet"
# Or a query on a database, whose URL is in an environment variable, never in this file:
# sql = "SELECT * FROM sales"
# url_env = "SHOP_DB"
# time_zone = "Europe/Berlin"

[events.columns]
# What this store's table calls them, where that differs:
# user_id = "loyalty_card"
# item_id = "article"
# timestamp = "sold_at"

[catalogue]
path = "catalogue.parquet"

[catalogue.columns]
# text = "description"
# category = "department"

# Whom to tell of events, by webhook, command or e-mail: docs/operators.md, "Who is told".
# [notify.command]
# argv = ["/usr/local/bin/page", "on-call"]
# Only for the tasks `review` and `conversion`; docs/data.md has their columns.
# [reviews]
# path = "reviews.parquet"
#
# [offers]
# path = "offers.parquet"
#
# [campaigns]
# path = "campaigns.parquet"
'''


def policy_toml() -> str:
    """A `policy.toml` with the default limits written out."""
    return f"""\
# This store's own limits. No manifest and no server can move them.

# Public key of the enrolment authority; `hanse store enrol --invitation FILE` fills it in.
{AUTHORITY_LINE}

# Fewest stores to hide this store's update among, and how many of them may be dishonest.
minimum_cohort = 5
colluders = 1

# "distributed": the stores share the noise, and most of them must be honest.
# "local": this store adds all of the noise by itself, and trusts nobody.
modes = ["local", "distributed"]

# What may be spent on this store's customers, over all rounds, runs and federations.
max_epsilon = 8.0
max_delta = 1e-5
# From this day (UTC) on, what was spent before no longer counts towards max_epsilon:
# budget_renews = 2027-01-01

# Take part only where the coordinator keeps a log that shows every store one history.
round_log = true

# max_rounds = 200

# SHA-256 of the only app bundle this store accepts; if unset, the manifest's is accepted.
# fab_digest = "…"
"""
