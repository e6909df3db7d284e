"""`meds review`: a local web application in which people judge the suspicious training images of a finished run."""
