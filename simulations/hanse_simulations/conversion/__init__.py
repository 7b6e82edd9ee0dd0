"""Will a campaign convert? The task `conversion` on Complete Journey's campaigns."""
