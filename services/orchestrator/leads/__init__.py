"""Leads: the chain from interest to delivery, who looks after each, and what is to be done."""
