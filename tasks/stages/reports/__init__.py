"""What a person reads when a campaign has ended."""
