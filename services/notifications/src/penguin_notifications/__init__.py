"""The Notifications tier: user notifications and admin system events."""
