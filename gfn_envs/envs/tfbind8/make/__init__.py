"""Commands that make the files shipped with TFBind8."""
