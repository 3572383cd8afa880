"""Redis as others run it: behind Sentinel or a proxy, with users of few rights, and with other settings than we wish for."""
