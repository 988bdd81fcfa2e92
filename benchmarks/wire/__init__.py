"""What calls weigh on the wire, in which form, and what that costs."""
