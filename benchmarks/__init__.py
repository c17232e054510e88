"""Measurements against other libraries; nothing else imports it."""
