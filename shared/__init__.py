"""What two or more tasks need. Knows no task."""
