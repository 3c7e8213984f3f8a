"""What a profile says is to run again and again: in crontab, or as recurring runs."""
