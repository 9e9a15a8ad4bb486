"""A small support desk for many companies: widgets, conversations, knowledge, costs."""
