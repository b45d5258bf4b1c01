"""New versions into service while traffic flows: model servers, shadow, canary, full, and back."""
