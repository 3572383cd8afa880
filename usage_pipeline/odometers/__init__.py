"""The odometers of our recorder (contracts §1.6): what was recorded, whatever Redis forgets or brings back."""
